"""Theory against experiment: comparisons, figures, reports, and the `entropic` command."""
