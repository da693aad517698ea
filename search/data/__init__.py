"""Text or tokens in, packed windows out."""
