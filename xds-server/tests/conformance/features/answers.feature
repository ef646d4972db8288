Feature: Answers

  Scenario Outline: a refused version is not sent again, and another is
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it acknowledges
    When "A" of <service> is updated
    Then it is sent "A" of <service>
    And it refuses
    And nothing more of <service> comes
    When "A" of <service> is updated
    Then it is sent "A" of <service>
    And it acknowledges
    And nothing more of <service> comes

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: a refused version is not sent to the next stream of a client that has something
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it acknowledges
    When "A" of <service> is updated
    Then it is sent "A" of <service>
    And it refuses
    And nothing more of <service> comes
    When the client comes back with what it has of <service>
    Then nothing more of <service> comes

    Examples:
      | service |
      | EDS     |
      | RDS     |

  Scenario Outline: an answer under a nonce that was never given acknowledges nothing
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    When it answers under the nonce "never" of <service>
    And it answers under the nonce "18446744073709551616" of <service>
    And "A" of <service> is updated
    Then nothing more of <service> comes
    When the client acknowledges
    Then it is sent "A" of <service>
    And it acknowledges

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |

  Scenario Outline: an answer that comes twice does no harm
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it acknowledges
    And it acknowledges
    And nothing more of <service> comes
    When "A" of <service> is updated
    Then it is sent "A" of <service>

    Examples:
      | service |
      | CDS     |
      | RDS     |

  Scenario Outline: every response has a nonce of its own
    Given the server has "A" of <service>
    When the client subscribes to "A" of <service>
    Then it is sent "A" of <service>
    And it acknowledges
    When "A" of <service> is updated
    Then it is sent "A" of <service>
    And its nonce is new

    Examples:
      | service |
      | CDS     |
      | EDS     |
      | LDS     |
      | RDS     |
