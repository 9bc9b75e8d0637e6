"""The chart, as the real helm renders it, without a cluster."""
