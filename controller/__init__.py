"""The controller decides: objects in, plans out. It never touches a namespace."""
