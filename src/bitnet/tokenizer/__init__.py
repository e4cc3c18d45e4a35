"""tokenizer.json to constant tables, the C++ text of them, and a Python interpreter of the same tables."""
