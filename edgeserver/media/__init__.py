"""The content repository: files by content hash, uploads, thumbnails, media of other servers, quotas."""
