"""The adapter of Azure App Service, over Azure Resource Manager and Kudu."""
