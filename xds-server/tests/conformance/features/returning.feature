Feature: Coming back

  @delta
  Scenario Outline: with everything, nothing is sent again
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client comes back with what it has of <service>
    Then nothing more of <service> comes
    When "B" of <service> is updated
    Then it is sent "B" of <service>
    And it acknowledges

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  @delta
  Scenario Outline: only what changed meanwhile is sent
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client is away
    And "B" of <service> is updated
    And the client comes back with what it has of <service>
    Then it is sent "B" of <service>
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: with nothing, all of it is sent
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client begins anew
    And the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

Feature: Time to live

  Scenario Outline: what has a time to live is said again in time, without its body
    Given the server has "A" of <service>
    And the client wants a time to live of 3 seconds
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it lives for 3 seconds
    And it acknowledges
    Then it is sent a heartbeat for "A" of <service>
    And it acknowledges
    Then it is sent a heartbeat for "A" of <service>

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |
