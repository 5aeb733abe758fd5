"""Records of studies in; rankings, comparisons and other conclusions out."""
