"""Tools for charts/shop: helm, checkov, and the generated parts of the chart."""
