"""One configuration and the pixels of its folds in; validation reports out."""
