"""Reports out of stored records: Markdown, figures and JSON, as pure functions of the records."""
