"""The chart: what the real helm makes of it, without a cluster."""
