"""Figures: palette, charts, interactive figures, explorers."""
