"""Pages: HTML, styles and scripts."""
