// One private endpoint, and the zone in which its name is found.

@description('Begins the names.')
param name string

@description('Region.')
param location string

@description('Subnet of the endpoint.')
param subnetId string

@description('Network in which the name is resolved.')
param networkId string

@description('What is reached.')
param targetId string

@description('Which part of it.')
param groupId string

@description('Private DNS zone of this kind of resource.')
param zone string

resource endpoint 'Microsoft.Network/privateEndpoints@2024-05-01' = {
  name: '${name}-endpoint'
  location: location
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: name
        properties: {
          privateLinkServiceId: targetId
          groupIds: [
            groupId
          ]
        }
      }
    ]
  }
}

resource dnsZone 'Microsoft.Network/privateDnsZones@2024-06-01' = {
  name: zone
  location: 'global'
}

resource dnsLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = {
  parent: dnsZone
  name: '${name}-link'
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: networkId
    }
  }
}

resource dnsGroup 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: name
        properties: {
          privateDnsZoneId: dnsZone.id
        }
      }
    ]
  }
}
