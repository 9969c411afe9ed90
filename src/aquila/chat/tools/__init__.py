"""Tools that come with the package, and how others are declared and found."""
