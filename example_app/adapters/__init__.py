"""The world as the application sees it: tables, the bank, and the container that hands them out."""
