"""What a function is on disk: archives unpacked safely, numbered versions, their environments, what they import."""
