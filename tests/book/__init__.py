"""The book: its sources, its builder, its built pages, and the pages in a browser."""
