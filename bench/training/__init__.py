"""The sides of bench/train.py: each trains the same Llama on the same tokens, some steps at a time."""
