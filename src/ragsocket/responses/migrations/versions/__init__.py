"""One file per revision, named after it. What is released is never changed again."""
