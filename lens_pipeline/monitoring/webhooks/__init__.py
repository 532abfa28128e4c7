"""Messages about each file to the operator's own servers, by the scheme of Standard Webhooks."""
