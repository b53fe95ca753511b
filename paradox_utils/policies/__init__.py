"""Policies: loading them, prompts and responses as tensors, passes that do no work twice, decoding, supervised training."""
