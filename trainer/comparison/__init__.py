"""Methods side by side on the same photographs: trained from one job, drawn with the same seeds, on one page."""
