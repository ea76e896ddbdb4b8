"""The road to GPT, one short file a step; nothing else imports them.

bigram.py            one character of past: by counting, and the same table learned
attention_steps.py   from averaging the past to attention with many heads
tiny_gpt.py          a whole GPT that learns a nursery rhyme; after it read reference/gpt.py
"""
