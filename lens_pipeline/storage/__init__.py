"""Object stores and downloads: the only use of boto3 and httpcore2."""
