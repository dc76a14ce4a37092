"""The lab's Azure: Resource Manager, App Service with Kudu, and Entra's token endpoints."""
