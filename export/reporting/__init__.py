"""HTML reports, plots and Markdown tables."""
