"""The road to GPT, one short file a step; nothing else imports them. Their pages: docs/lessons/README.md.

autograd.py          numbers that know their slopes, and a network that learns with them
bigram.py            one character of past: by counting, and the same table learned
mlp.py               three letters of past through a hidden layer, and how large first weights must be
batchnorm.py         batch norm and layer norm, forward and backward
manual_backprop.py   all gradients of a network by hand
wavenet.py           eight letters merged in a tree, which is a dilated convolution
attention_steps.py   from averaging the past to attention with many heads
bpe.py               text into tokens: byte-pair encoding, up to GPT-2's own
tiny_gpt.py          a whole GPT that learns a nursery rhyme
letter_gpts.py       the GPT of reference/gpt.py on four texts; after it read that file

Several lessons use names.py (a list of names), drawing.py (pictures) and command.py (--help).
bpe_speed.py takes the times of lesson 8 and of the library in turn.
"""

import sys

from reference.cli.interrupts import end_at_once

if sys.argv[0] == "-m":  # which is what Python puts there while it looks for the lesson of `python -m`
    end_at_once()
