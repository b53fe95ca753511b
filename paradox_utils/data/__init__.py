"""The two data sources (Atlas and QA-FEEDBACK) and the records they share."""
