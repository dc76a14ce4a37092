// Values of one deployment. Secrets come from environment variables of whoever deploys:
// docs/deploy/azure-app-service.md says how to make them.
using './main.bicep'

param image = 'example.azurecr.io/mcp-ops:0.1.0'
param registryName = 'example'
param instances = 2
param guardMode = 'read_only'
param privateNetworking = false

param accessKey = readEnvironmentVariable('MCP_OPS_ACCESS_KEY')
param storeKey = readEnvironmentVariable('MCP_OPS_NEW_STORE_KEY')
param databasePassword = readEnvironmentVariable('MCP_OPS_DATABASE_PASSWORD')
