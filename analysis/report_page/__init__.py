"""Records of studies in; one HTML page of figures and tables, readable offline, out."""
