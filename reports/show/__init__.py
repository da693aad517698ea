"""Tables, figures and pages, for any view."""
