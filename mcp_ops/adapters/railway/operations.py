"""Everything that can be sent to Railway: a closed list of constant documents.

A token of Railway can delete a project in seconds. No document here is built from anything, what a
caller chooses is a typed variable, and `api.py` sends nothing but members of these two enums.
What is not here (delete, remove, volumes, domains, tokens, raw environment patches) can't be sent.
"""

from __future__ import annotations

from enum import Enum


class Query(Enum):
    """What can be asked."""

    WHOSE = """
query Whose {
  projectToken { projectId environmentId }
}
"""
    ACCOUNT = """
query Account {
  me { id }
}
"""
    WORKSPACES = """
query Workspaces {
  apiToken { workspaces { id } }
}
"""
    SERVICES = """
query Services($project: String!, $environment: String!, $first: Int!, $after: String) {
  environment(id: $environment, projectId: $project) {
    id
    projectId
    serviceInstances(first: $first, after: $after) {
      edges { node { serviceId serviceName } }
      pageInfo { hasNextPage endCursor }
    }
  }
}
"""
    OVERVIEW = """
query Overview($project: String!, $environment: String!, $first: Int!, $after: String) {
  environment(id: $environment, projectId: $project) {
    id
    projectId
    serviceInstances(first: $first, after: $after) {
      edges {
        node {
          serviceId
          serviceName
          numReplicas
          region
          cronSchedule
          source { repo image }
          latestDeployment {
            id status createdAt statusUpdatedAt deploymentStopped canRedeploy canRollback meta
            instances { id status }
          }
          activeDeployments {
            id status createdAt statusUpdatedAt deploymentStopped canRedeploy canRollback meta
            instances { id status }
          }
        }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
}
"""
    SERVICE = """
query Service(
  $project: String!, $environment: String!, $service: String!, $first: Int!, $after: String
) {
  serviceInstance(environmentId: $environment, serviceId: $service) {
    serviceId
    serviceName
    numReplicas
    region
    cronSchedule
    source { repo image }
    latestDeployment {
      id status createdAt statusUpdatedAt deploymentStopped canRedeploy canRollback meta
      instances { id status }
    }
    activeDeployments {
      id status createdAt statusUpdatedAt deploymentStopped canRedeploy canRollback meta
      instances { id status }
    }
  }
  deployments(
    input: {projectId: $project, environmentId: $environment, serviceId: $service}
    first: $first
    after: $after
  ) {
    edges {
      node {
        id status createdAt statusUpdatedAt deploymentStopped canRedeploy canRollback meta
        instances { id status }
      }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""
    DEPLOYMENT = """
query Deployment($deployment: String!) {
  deployment(id: $deployment) {
    serviceId
    environmentId
    id status createdAt statusUpdatedAt deploymentStopped canRedeploy canRollback meta
    instances { id status }
  }
}
"""
    EVENTS = """
query Events($deployment: String!, $last: Int!) {
  deploymentEvents(id: $deployment, last: $last) {
    edges { node { step createdAt completedAt payload { error reason } } }
  }
}
"""
    RUNTIME_LOGS = """
query RuntimeLogs($deployment: String!, $limit: Int!, $since: DateTime, $filter: String) {
  deploymentLogs(deploymentId: $deployment, limit: $limit, startDate: $since, filter: $filter) {
    timestamp
    severity
    message
    tags { deploymentInstanceId }
  }
}
"""
    BUILD_LOGS = """
query BuildLogs($deployment: String!, $limit: Int!, $since: DateTime) {
  buildLogs(deploymentId: $deployment, limit: $limit, startDate: $since) {
    timestamp
    severity
    message
  }
}
"""
    VARIABLES = """
query Variables($project: String!, $environment: String!, $service: String!) {
  variables(
    projectId: $project, environmentId: $environment, serviceId: $service, unrendered: true
  )
}
"""
    SEALED = """
query Sealed($project: String!, $environment: String!, $first: Int!) {
  environment(id: $environment, projectId: $project) {
    variables(first: $first) { edges { node { name serviceId isSealed } } }
  }
}
"""


class Mutation(Enum):
    """What can be changed."""

    RESTART = """
mutation Restart($deployment: String!) {
  deploymentRestart(id: $deployment)
}
"""
    STOP = """
mutation Stop($deployment: String!) {
  deploymentStop(id: $deployment)
}
"""
    ROLLBACK = """
mutation Rollback($deployment: String!) {
  deploymentRollback(id: $deployment)
}
"""
    REDEPLOY = """
mutation Redeploy($deployment: String!) {
  deploymentRedeploy(id: $deployment) { id }
}
"""
    SET_REPLICAS = """
mutation SetReplicas($environment: String!, $service: String!, $replicas: Int!) {
  serviceInstanceUpdate(
    environmentId: $environment, serviceId: $service, input: {numReplicas: $replicas}
  )
}
"""
    SET_REGIONS = """
mutation SetRegions($environment: String!, $service: String!, $regions: JSON!) {
  serviceInstanceUpdate(
    environmentId: $environment, serviceId: $service, input: {multiRegionConfig: $regions}
  )
}
"""
    DEPLOY = """
mutation Deploy($environment: String!, $service: String!, $commit: String) {
  serviceInstanceDeployV2(environmentId: $environment, serviceId: $service, commitSha: $commit)
}
"""
    SET_VARIABLE = """
mutation SetVariable(
  $project: String!, $environment: String!, $service: String!, $name: String!, $value: String!
) {
  variableUpsert(
    input: {
      projectId: $project
      environmentId: $environment
      serviceId: $service
      name: $name
      value: $value
      skipDeploys: false
    }
  )
}
"""
