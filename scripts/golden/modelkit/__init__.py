"""Parts of `models.py` and `at_size.py`: codecs, GGUF container, NumPy arithmetic and the run through transformers."""
