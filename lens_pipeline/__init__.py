"""Dagster pipeline that makes previews, posters and masters of AI-generated photos and videos."""
