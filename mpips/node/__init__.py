"""What joins the protocol, the transport and the files: launch, roles and the only event loop."""
