Feature: Changes

  Scenario Outline: a change of one resource
    Given the server has "A,B,C" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When "B" of <service> is updated
    Then it is sent "B" of <service>, out of "A,B"
    And only "B" differs from before
    And it acknowledges
    When "C" of <service> is updated
    Then nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: a change back and forth while the client is silent is one change
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    When "A" of <service> is updated
    And "A" of <service> is updated
    Then nothing more of <service> comes
    When the client acknowledges
    Then it is sent "A" of <service>
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: what goes is said, for what is not named by something else
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When "B" of <service> is removed
    Then it is told that "B" of <service> is gone, out of "A"
    And it acknowledges
    When "B" of <service> is added
    Then it is sent "B" of <service>, out of "A,B"
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | LDS     |

  Scenario Outline: endpoints and routes stay until what names them goes
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When "B" of <service> is removed
    Then nothing more of <service> comes

    Examples:
      | service |
      | EDS     |
      | RDS     |

  @aggregated
  Scenario: clusters come before endpoints, and a changed cluster is followed by its endpoints
    Given the server has "A" of CDS
    And the server has "A" of EDS
    When the client subscribes to "A" of CDS
    Then it is sent "A" of CDS
    And it acknowledges
    When the client subscribes to "A" of EDS
    Then it is sent "A" of EDS
    And it acknowledges
    When "A" of CDS is updated
    Then it is sent "A" of CDS
    And it acknowledges
    And it is sent "A" of EDS
    And it acknowledges

  @aggregated
  Scenario: types do not wait for each other
    Given the server has "A" of CDS
    And the server has "R" of RDS
    When the client subscribes to "A" of CDS
    Then it is sent "A" of CDS
    When the client subscribes to "R" of RDS
    Then it is sent "R" of RDS
    And it acknowledges
