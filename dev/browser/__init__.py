"""The page in a real Chromium, for tests/browser and for the pictures in the documents."""
