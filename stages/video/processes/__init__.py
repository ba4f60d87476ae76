"""Processes around video: decoding that may hang or crash, the alarm that ends it, and frames in shared memory."""
