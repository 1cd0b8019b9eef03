"""Anonymizing aligned faces, whole photos and folders of files."""
