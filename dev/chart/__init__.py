"""What the checks of charts/shop need: helm and checkov, and the generated parts of the chart."""
