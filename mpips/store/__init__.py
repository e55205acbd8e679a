"""What a server holds: tables, dense or sparse, and the update functions that change them."""
