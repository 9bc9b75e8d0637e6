"""The images are built, inspected, and started on a real broker and real databases."""
