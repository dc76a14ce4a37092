// A virtual network with one subnet for the site's calls and one for private endpoints.

@description('Begins the names.')
param prefix string

@description('Region.')
param location string

@description('Addresses of the network.')
param addresses string = '10.40.0.0/16'

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: '${prefix}-network'
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [
        addresses
      ]
    }
    subnets: [
      {
        name: 'site'
        properties: {
          addressPrefix: cidrSubnet(addresses, 24, 0)
          delegations: [
            {
              name: 'site'
              properties: {
                serviceName: 'Microsoft.Web/serverFarms'
              }
            }
          ]
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: cidrSubnet(addresses, 24, 1)
        }
      }
    ]
  }
}

@description('The network.')
output networkId string = network.id

@description('For VNet integration of the site.')
output siteSubnetId string = network.properties.subnets[0].id

@description('For private endpoints.')
output endpointSubnetId string = network.properties.subnets[1].id
