"""What a link will carry: history in, prediction with an interval out. Core: no socket, file, thread or clock."""
