"""The book's pages: executed notebooks that know whether they are fresh, and the staging of a build."""
