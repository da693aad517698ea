"""What one looks at: records in; tables, figures and one HTML page out. Never imports torch."""
