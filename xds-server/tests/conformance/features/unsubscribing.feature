Feature: Unsubscribing

  Scenario Outline: from one
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client unsubscribes from "B" of <service>
    And "B" of <service> is updated
    Then "B" of <service> does not come, out of "A"
    When "A" of <service> is updated
    Then it is sent "A" of <service>
    And it acknowledges

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: from all, which is not the same as asking for everything
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client unsubscribes from "A,B" of <service>
    And "A" of <service> is updated
    Then "A" of <service> does not come, out of ""

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: and asking again sends it again
    Given the server has "A,B" of <service>
    When the client subscribes to "A,B" of <service>
    Then it is sent "A,B" of <service>
    And it acknowledges
    When the client unsubscribes from "B" of <service>
    And "B" of <service> does not come, out of "A"
    And the client subscribes to "B" of <service>
    Then it is sent "B" of <service>, out of "A,B"
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  @delta
  Scenario Outline: from what was never asked for
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it acknowledges
    When the client unsubscribes from "B,C" of <service>
    Then nothing more of <service> comes
    When "A" of <service> is updated
    Then it is sent "A" of <service>

    Examples:
      | service |
      | CDS     |
      | EDS     |
