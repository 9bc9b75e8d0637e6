"""The images: built for real, looked into, and started on a real broker and real databases."""
