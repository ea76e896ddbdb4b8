"""Is your GPT the same function; if not, where and why?"""
