Feature: Subscribing

  Scenario Outline: what is asked for by name comes, and nothing else
    Given the server has "A,B,C" of <service>
    When the client subscribes to "A,C" of <service>
    Then it is sent "A,C" of <service>
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: one after the other
    Given the server has "A,B,C" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it acknowledges
    When the client subscribes to "B" of <service>
    Then it is sent "B" of <service>, out of "A,B"
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: everything, without a name
    Given the server has "A,B" of <service>
    When the client subscribes to everything of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When "C" of <service> is added
    Then it is sent "C" of <service>, out of "A,B,C"
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | LDS     |

  Scenario Outline: everything, by the star, and one by name beside it
    Given the server has "A,B" of <service>
    When the client subscribes to "*,A" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client unsubscribes from "*" of <service>
    And "B" of <service> is updated
    Then "B" of <service> does not come, out of "A"
    When "A" of <service> is updated
    Then it is sent "A" of <service>
    And it acknowledges

    Examples:
      | service |
      | CDS     |
      | LDS     |

  Scenario Outline: what is not there is said, and comes when it is
    Given the server has "A" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A" of <service>, and told that "B" is not there
    And it acknowledges
    When "B" of <service> is added
    Then it is sent "B" of <service>, out of "A,B"
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: names as URLs
    Given the server has "A" of <service>
    When the client subscribes to "xdstp://foreshadow/<type>/A" of <service>
    Then it is sent "xdstp://foreshadow/<type>/A" of <service>
    And it acknowledges
    When "A" of <service> is updated
    Then it is sent "xdstp://foreshadow/<type>/A" of <service>
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service | type                                      |
      | CDS     | envoy.config.cluster.v3.Cluster           |
      | EDS     | envoy.config.endpoint.v3.ClusterLoadAssignment |
      | LDS     | envoy.config.listener.v3.Listener         |
      | RDS     | envoy.config.route.v3.RouteConfiguration  |
