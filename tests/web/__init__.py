"""The page, in Chromium and as files."""
