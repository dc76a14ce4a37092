// mcp-ops on Azure App Service: everything in one resource group.
// docs/deploy/azure-app-service.md is the walk-through.
targetScope = 'resourceGroup'

@description('Begins the names of all resources: lower-case letters and digits.')
@minLength(3)
@maxLength(10)
param prefix string = 'mcpops'

@description('Region of all resources.')
param location string = resourceGroup().location

@description('The image with its tag or, better, its digest, such as registry.example.com/mcp-ops@sha256:….')
param image string

@description('Name of an Azure Container Registry of this resource group that holds the image; empty for another registry.')
param registryName string = ''

@description('Size of the plan. Always On and VNet integration need Basic or higher.')
@allowed([
  'B1'
  'B2'
  'P0v3'
  'P1v3'
  'P2v3'
])
param planSku string = 'P0v3'

@description('Instances. With more than one, all share the stores of this template.')
@minValue(1)
@maxValue(10)
param instances int = 2

@description('Sends a client back to the instance that it came from. SSE needs it with more than one instance; clients have to keep cookies.')
param sessionAffinity bool = true

@description('Further public names under which clients call, besides the default one.')
param publicNames array = []

@description('Configuration file in the image, such as /etc/mcp-ops/config.toml; empty: what is set here alone.')
param configPath string = ''

@description('Mode of the guard at start: a floor that no agent can lower.')
@allowed([
  'normal'
  'restrictive'
  'critical'
  'read_only'
  'lockdown'
])
param guardMode string = 'read_only'

@description('Further application settings without secrets, name and value.')
param settings object = {}

@description('Further application settings whose values are secrets of the vault: name of the setting, name of the secret.')
param vaultSettings object = {}

@description('Bearer key of the first client, at least 16 characters.')
@secure()
@minLength(16)
param accessKey string

@description('Seals the ledger and the questions to clients, the same for all instances, at least 16 characters.')
@secure()
@minLength(16)
param storeKey string

@description('Name of the database administrator.')
param databaseUser string = 'mcpops'

@description('Password of the database administrator.')
@secure()
@minLength(16)
param databasePassword string

@description('Size of the database server.')
param databaseSku string = 'Standard_B1ms'

@description('A second database server that is written to before a commit counts. Not for sizes that begin with Standard_B.')
@allowed([
  'Disabled'
  'SameZone'
  'ZoneRedundant'
])
param databaseStandby string = 'Disabled'

@description('Size of Azure Managed Redis.')
param redisSku string = 'Balanced_B0'

@description('Keeps stores and vault off the public network: a virtual network with private endpoints.')
param privateNetworking bool = false

@description('With private networking: lets clients call from the public network. Azure AI agents do.')
param publicInbound bool = true

@description('Days that logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 90

var suffix = uniqueString(resourceGroup().id)
var siteName = '${prefix}-${suffix}'
var storeAccess = privateNetworking ? 'Disabled' : 'Enabled'
var inbound = privateNetworking && !publicInbound ? 'Disabled' : 'Enabled'

// Built-in roles, the same in every tenant.
var secretsUser = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4633458b-17de-408a-b874-0445c86b69e6')
var acrPull = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '7f951dda-4ed3-4680-a7ca-43fe172d538d')

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${prefix}-identity'
  location: location
}

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: '${prefix}-logs'
  location: location
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: logRetentionDays
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: '${prefix}-insights'
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: logs.id
  }
}

module network 'modules/network.bicep' = if (privateNetworking) {
  name: 'network'
  params: {
    prefix: prefix
    location: location
  }
}

// Secrets are written by this template and read by the site's identity, by reference.
resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: take('${prefix}-${suffix}', 24)
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    publicNetworkAccess: storeAccess
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: privateNetworking ? 'Deny' : 'Allow'
    }
  }
}

resource readsSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, identity.id, secretsUser)
  scope: vault
  properties: {
    roleDefinitionId: secretsUser
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource accessKeySecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'access-key'
  properties: {
    value: accessKey
  }
}

resource storeKeySecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'store-key'
  properties: {
    value: storeKey
  }
}

resource hotUrlSecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'store-hot-url'
  properties: {
    value: 'rediss://:${uriComponent(hotDatabase.listKeys().primaryKey)}@${hot.properties.hostName}:${hotDatabase.properties.port}/0'
  }
}

resource ledgerUrlSecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'store-ledger-url'
  properties: {
    value: 'postgresql://${databaseUser}:${uriComponent(databasePassword)}@${ledger.properties.fullyQualifiedDomainName}:5432/${ledgerDatabase.name}?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt'
  }
}

resource insightsSecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'insights-connection'
  properties: {
    value: insights.properties.ConnectionString
  }
}

// The hot store: one endpoint, since the server's keys lie in one slot; nothing is ever evicted.
resource hot 'Microsoft.Cache/redisEnterprise@2025-07-01' = {
  name: '${prefix}-hot-${suffix}'
  location: location
  sku: {
    name: redisSku
  }
  properties: {
    minimumTlsVersion: '1.2'
    highAvailability: 'Enabled'
    publicNetworkAccess: storeAccess
  }
}

resource hotDatabase 'Microsoft.Cache/redisEnterprise/databases@2025-07-01' = {
  parent: hot
  name: 'default'
  properties: {
    clientProtocol: 'Encrypted'
    port: 10000
    clusteringPolicy: 'EnterpriseCluster'
    evictionPolicy: 'NoEviction'
    accessKeysAuthentication: 'Enabled'
    persistence: {
      aofEnabled: true
      aofFrequency: '1s'
      rdbEnabled: false
    }
  }
}

// The ledger.
resource ledger 'Microsoft.DBforPostgreSQL/flexibleServers@2025-08-01' = {
  name: '${prefix}-ledger-${suffix}'
  location: location
  sku: {
    name: databaseSku
    tier: startsWith(databaseSku, 'Standard_B') ? 'Burstable' : 'GeneralPurpose'
  }
  properties: {
    version: '17'
    administratorLogin: databaseUser
    administratorLoginPassword: databasePassword
    storage: {
      storageSizeGB: 32
      autoGrow: 'Enabled'
    }
    backup: {
      backupRetentionDays: 14
      geoRedundantBackup: 'Disabled'
    }
    highAvailability: {
      mode: databaseStandby
    }
    network: {
      publicNetworkAccess: storeAccess
    }
  }
}

resource ledgerDatabase 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2025-08-01' = {
  parent: ledger
  name: 'mcp_ops'
  properties: {
    charset: 'UTF8'
    collation: 'en_US.utf8'
  }
}

// Without private networking: the addresses of Azure, of all its customers. The password decides.
resource ledgerFirewall 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules@2025-08-01' = if (!privateNetworking) {
  parent: ledger
  name: 'azure-services'
  properties: {
    startIpAddress: '0.0.0.0'
    endIpAddress: '0.0.0.0'
  }
}

module vaultEndpoint 'modules/private-endpoint.bicep' = if (privateNetworking) {
  name: 'vault-endpoint'
  params: {
    name: '${prefix}-vault'
    location: location
    subnetId: network!.outputs.endpointSubnetId
    networkId: network!.outputs.networkId
    targetId: vault.id
    groupId: 'vault'
    zone: 'privatelink.vaultcore.azure.net'
  }
}

module hotEndpoint 'modules/private-endpoint.bicep' = if (privateNetworking) {
  name: 'hot-endpoint'
  params: {
    name: '${prefix}-hot'
    location: location
    subnetId: network!.outputs.endpointSubnetId
    networkId: network!.outputs.networkId
    targetId: hot.id
    groupId: 'redisEnterprise'
    zone: 'privatelink.redis.azure.net'
  }
}

module ledgerEndpoint 'modules/private-endpoint.bicep' = if (privateNetworking) {
  name: 'ledger-endpoint'
  params: {
    name: '${prefix}-ledger'
    location: location
    subnetId: network!.outputs.endpointSubnetId
    networkId: network!.outputs.networkId
    targetId: ledger.id
    groupId: 'postgresqlServer'
    zone: 'privatelink.postgres.database.azure.com'
  }
}

module siteEndpoint 'modules/private-endpoint.bicep' = if (privateNetworking && !publicInbound) {
  name: 'site-endpoint'
  params: {
    name: '${prefix}-site'
    location: location
    subnetId: network!.outputs.endpointSubnetId
    networkId: network!.outputs.networkId
    targetId: site.id
    groupId: 'sites'
    zone: 'privatelink.azurewebsites.net'
  }
}

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = if (!empty(registryName)) {
  name: registryName
}

resource pullsImages 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(registryName)) {
  name: guid(resourceGroup().id, registryName, identity.id, acrPull)
  scope: registry
  properties: {
    roleDefinitionId: acrPull
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource plan 'Microsoft.Web/serverfarms@2025-05-01' = {
  name: '${prefix}-plan'
  location: location
  kind: 'linux'
  sku: {
    name: planSku
    capacity: instances
  }
  properties: {
    reserved: true
  }
}

resource site 'Microsoft.Web/sites@2025-05-01' = {
  name: siteName
  location: location
  kind: 'app,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: sessionAffinity
    publicNetworkAccess: inbound
    keyVaultReferenceIdentity: identity.id
    virtualNetworkSubnetId: privateNetworking ? network!.outputs.siteSubnetId : null
    outboundVnetRouting: {
      allTraffic: privateNetworking
    }
    siteConfig: {
      linuxFxVersion: 'DOCKER|${image}'
      acrUseManagedIdentityCreds: !empty(registryName)
      acrUserManagedIdentityID: identity.properties.clientId
      alwaysOn: true
      healthCheckPath: '/health/ready'
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
      http20Enabled: true
      webSocketsEnabled: false
      remoteDebuggingEnabled: false
    }
  }
  dependsOn: [
    readsSecrets
    pullsImages
  ]
}

// Secrets are references: the site resolves them with its identity.
resource siteSettings 'Microsoft.Web/sites/config@2025-05-01' = {
  parent: site
  name: 'appsettings'
  properties: union(settings, toObject(items(vaultSettings), each => each.key, each => '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${each.value})'), {
    MCP_TRANSPORT: 'http'
    MCP_OPS_HOST: '0.0.0.0'
    WEBSITES_PORT: '8000'
    WEBSITES_ENABLE_APP_SERVICE_STORAGE: 'false'
    WEBSITES_CONTAINER_START_TIME_LIMIT: '230'
    WEBSITES_CONTAINER_STOP_TIME_LIMIT: '60'
    MCP_OPS_ALLOWED_HOSTS: join(union([site.properties.defaultHostName], publicNames), ',')
    MCP_OPS_URL: 'https://${empty(publicNames) ? site.properties.defaultHostName : publicNames[0]}'
    MCP_OPS_CONFIG: configPath
    MCP_OPS_STATE_DIR: '/var/lib/mcp-ops'
    MCP_RATE_LIMIT_MODE: guardMode
    MCP_OPS_KEY: '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${accessKeySecret.name})'
    MCP_OPS_STORE_KEY: '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${storeKeySecret.name})'
    MCP_OPS_STORE_HOT: '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${hotUrlSecret.name})'
    MCP_OPS_STORE_LEDGER: '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${ledgerUrlSecret.name})'
    APPLICATIONINSIGHTS_CONNECTION_STRING: '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${insightsSecret.name})'
  })
}

// No publishing with passwords.
resource noFtp 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-05-01' = {
  parent: site
  name: 'ftp'
  properties: {
    allow: false
  }
}

resource noScm 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-05-01' = {
  parent: site
  name: 'scm'
  properties: {
    allow: false
  }
}

resource siteLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'to-workspace'
  scope: site
  properties: {
    workspaceId: logs.id
    logs: [
      {
        category: 'AppServiceConsoleLogs'
        enabled: true
      }
      {
        category: 'AppServicePlatformLogs'
        enabled: true
      }
      {
        category: 'AppServiceHTTPLogs'
        enabled: true
      }
    ]
  }
}

@description('Where clients call: add /mcp.')
output url string = 'https://${site.properties.defaultHostName}'

@description('Name of the site.')
output siteName string = site.name

@description('Name of the vault, for further secrets.')
output vaultName string = vault.name

@description('Client id of the identity with which the server reaches Azure.')
output identityClientId string = identity.properties.clientId
