"""Records of studies in; rankings, comparisons and other judgements out."""
